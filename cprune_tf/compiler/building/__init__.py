"""From lowered and scheduled modules to shared libraries."""
