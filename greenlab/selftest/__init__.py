"""Proves on this machine that greenlab's joules are right: cells over counters of known watts.

What is measured is simulated; what measures it is the code that measures every cell, under the real
Zeus and the real pynvml.
"""
