"""Magnitude pruning by TensorFlow Model Optimization (TFMOT): weights become zero, filters stay.

TFMOT needs Keras 2 (`tf_keras`), so a child process trains a copy of the model and hands its
weights back. The copy is described as plain JSON types, and the parent sends every training batch.
"""
