"""What holds for every test."""

import os

from hypothesis import settings

# How long an example takes says how busy the machine is, not whether the code is right.
settings.register_profile("picker", deadline=None)
settings.load_profile("picker")

# Tests start processes while their own gRPC client is at work; its handlers of fork() abort the child now and then.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
