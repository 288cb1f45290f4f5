"""The control plane's own process: discovery, scraping and the admin port, away from the thread that serves requests.

`supervisor` runs in the data plane and keeps it alive; `plane` is what runs in it; `link` and `messages` join the two.
"""
