"""The data: data sets, who holds which samples, and which of them a round trains on."""
