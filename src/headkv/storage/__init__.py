"""What is kept on disk: result files, run records, head scores and layer importance.

Everything here can be read without torch; the two loaders of tensors import it when called.
"""
