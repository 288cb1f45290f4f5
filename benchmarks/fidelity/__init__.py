"""The same traffic under the same policies live, through a real Envoy, and in the lab's virtual time: do they agree?"""
