"""The paper's experiment on MNIST, done again and turned around: ``python -m bench.paper --help``."""
