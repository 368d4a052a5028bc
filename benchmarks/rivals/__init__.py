"""The rivals, each as its own users write it.

A runner is a function of a workload and a number of cores; it returns a function from a seed to moments, or raises
`LeftOut` where its package is missing. It sets no option that its users would not know of.
"""
