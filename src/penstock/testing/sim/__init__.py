"""A machine in one process: virtual time, a disk that crashes, a network that loses, all from one seed."""
