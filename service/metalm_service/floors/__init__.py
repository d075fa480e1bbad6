"""The floors of a spec on request, computed where they are never in the way of batches."""
