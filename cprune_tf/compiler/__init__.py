"""The compiler half: Keras -> Relax, tasks, tuning, program structure, transfer, build.

Importing this package does not import TVM; the modules below it do.
"""
