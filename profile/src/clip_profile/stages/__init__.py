"""`clip-profile stages`: what load, transport, queue, decode, preprocess and embed cost under a load."""
