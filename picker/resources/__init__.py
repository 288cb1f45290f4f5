"""The Kubernetes objects that picker obeys, and what they come to. Where they are from, nothing here knows."""
