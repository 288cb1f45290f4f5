# A message as a plugin may see and change it.
from picker._core.routing cimport route_t


cdef class View:
    cdef route_t* route        # NULL: the plugin's turn is over

    cdef route_t* _there(self) except NULL
