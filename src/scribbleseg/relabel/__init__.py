"""The E step: what the network predicts, refined, decided, and the seeds put back."""
