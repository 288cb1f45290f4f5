"""What picker knows of the Kubernetes API: a client, and what watches, elects and changes over it. An adapter."""
