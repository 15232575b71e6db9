"""A fleet on a virtual clock: modelled engines, faults and changes drawn by seed, real tasks, the real host, judged."""
