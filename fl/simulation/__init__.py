"""The federated simulation: models, clients, algorithms, rounds, and how they run on hardware."""
