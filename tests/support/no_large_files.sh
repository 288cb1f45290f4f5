#!/usr/bin/env bash
# Refuses files above 256 KiB: data lives elsewhere.
status=0
for file in "$@"; do
  if [ "$(stat -c %s "$file")" -gt 262144 ]; then
    echo "$file is larger than 256 KiB: keep data out of the repository"
    status=1
  fi
done
exit $status
