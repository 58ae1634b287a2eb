"""Training of person search: `msinet-train --task search`."""
