"""Secure aggregation: the server learns the sum of its clients' vectors, and no single one.

Bonawitz et al., "Practical secure aggregation for privacy-preserving machine learning" (CCS 2017),
with signatures against an active server, and SecAgg+ (Bell et al., CCS 2020), in which clients deal
with k neighbours each instead of all others.

A round: clients *advertise* fresh keys, signed; *share* among one another, encrypted, a seed and a
private key; *mask* their vectors with what the seed expands to and, pair by pair, with masks that
cancel; *confirm* by signature who is left; and *unmask*: they give the server their shares of the
seeds of those who are left, and of the private keys of those who are gone. Where vectors are
sealed, a committee then *opens* their sum, and *answers* what the server is to learn of it.

Beyond the papers, all signatures and keys are bound to a digest of what the server broadcast, so
that it cannot send one client another model than the others. A client commits to its self-mask's
seed, so that wrong shares make no wrong sum. And it signs with its masked vector whose shares it
was told had arrived, and a digest of the common secret that it derived, and nobody gives a share of
its seed away who knows otherwise. Else a server could make a client leave masks out; or, with a
client that deals others different seeds, weigh the sum towards one vector. And in SecAgg+ a random
committee of k + 1 clients vouches for the survivors, so that no two parts of the circle are shown
different ones, and deals the common secret.

Who learns what in a round. The server: who takes part, who drops out, and the sum of the survivors'
vectors; no client's vector. A client: who takes part and who is left, and the common secret, where
there is one; no other client's vector. The server and up to t - 1 clients that all follow the
protocol together: those clients' vectors, so the sum over all other survivors, and the common
secret; no single honest client's vector, unless no more than one is left. If they cheat, that holds
for up to 2 t - n - 1 clients, and c of them face at least t - c honest survivors. In SecAgg+ it
holds for a share of all clients, who are corrupt before places in the circle are drawn, but for the
probability that `graph.choose_degree` keeps to; the honest survivors that are added up are then
spread all around the circle, no more than k / 2 places apart. A client that lies about its vector
or its shares can spoil a round, or make others give up, but not open it.

Over several rounds. Who is there changes, and vectors change slowly: the difference of the sums
with and without a client is about that client's vector. The probabilities are those of a round, and
add up.

In SecAdam the vectors are moments. Sealed, the server learns the ratio of their sums alone, and the
committee the sums; one client that works with the server gives it the sums. Otherwise they are q m
and q^2 v, with q in [1/4, 4) drawn for each entry from the common secret. That hides the entries of
a round's mean moments up to such factors, but not their signs, nor what is averaged over many
entries; nor, over many rounds, moments that hardly change. What the ratio tells, which is public by
design, nothing here hides, and nothing is differentially private.

What is assumed. Registered keys that the server cannot replace; the same `Parameters` known to all
(those who know others are refused), no two rounds with the same number under the same registered
keys; channels that say who sent a message; t of those that each client deals with, and of the
committee, stay to the end; in SecAgg+, places in the circle that nobody chose; the usual hardness
of X25519, Ed25519, AES and ChaCha20-Poly1305. How long a step takes is
not hidden: Python's integers are not constant in time.

===========  ====================================================================================
shamir       secret sharing over a prime field        quantise    numbers as integers modulo 2^64
decoding     shares of which some are wrong           keys        key agreement, encryption
masks        keys expanded into vectors               graph       who deals with whom
records      typed fields, as bytes                   messages    what travels
statements   what is signed                           parameters  what all know beforehand
client       a client's state machine                 server      the server's
told         what a client believes of the server     checks      what the server takes of a client
dealing      what clients deal one another            unmasking   masks taken off the sum
pairs        masks of those who are gone              helper      a process that takes them off
seal         sums that the server cannot read         runner      a round, with clients that vanish
bench        seconds and bytes
===========  ====================================================================================
"""
