"""Secure aggregation: the server learns the sum of its clients' vectors, and no single one.

Bonawitz et al., "Practical secure aggregation for privacy-preserving machine learning" (CCS 2017),
with signatures against an active server, and SecAgg+ (Bell et al., CCS 2020), in which clients deal
with k neighbours each instead of all others.

A round: clients *advertise* fresh keys, signed; *share* among one another, encrypted, a seed and a
private key; *mask* their vectors with what the seed expands to and, pair by pair, with masks that
cancel; *confirm* by signature who is left; and *unmask*: they give the server their shares of the
seeds of those who are left, and of the private keys of those who are gone.

===========  ====================================================================================
shamir       secret sharing over a prime field        quantise    numbers as integers modulo 2^64
masks        keys expanded into vectors               keys        key agreement, encryption
messages     what travels                             parameters  who takes part, and with whom
client       a client's state machine                 server      the server's
runner       a whole round, with clients that vanish
===========  ====================================================================================
"""
