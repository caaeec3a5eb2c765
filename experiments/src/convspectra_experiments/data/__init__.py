"""Images: CIFAR-10 in its official files, and the digits of scikit-learn."""
