"""`metalm doctor`: what is wrong with a deployment, seen from where a trainer runs."""
