"""How the host source looks at its host: files of /proc, netlink sockets, and psutil where there is neither."""
