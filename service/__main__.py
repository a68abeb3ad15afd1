"""`python -m service …` is `structxlip …`."""

from service.commands.main import main

main()
