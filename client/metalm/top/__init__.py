"""A live view of the replicas of a service, from their metrics."""
