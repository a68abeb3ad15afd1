"""The collection of pictures: catalogue, vectors and nearest-neighbour engines; never imports torch."""
