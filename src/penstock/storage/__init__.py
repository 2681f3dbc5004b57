"""Ports to everything that outlives the process, and their adapters for one machine.

All bytes that leave the process for a disk, a bucket or a sibling process pass through a module of this
package; the simulator replaces the adapters and nothing else.
"""
