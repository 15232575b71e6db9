"""A fleet on a virtual clock: modelled engines with faults drawn by seed, real tasks through the real host, judged."""
