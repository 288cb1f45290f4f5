"""What holds for every test."""

import os

from hypothesis import HealthCheck, settings

# How long an example takes, to make or to try, says how busy the machine is, not whether the code is right.
settings.register_profile("picker", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("picker")

# Tests start processes while their own gRPC client is at work; its handlers of fork() abort the child now and then.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
