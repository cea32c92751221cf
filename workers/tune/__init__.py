"""`vqa tune`: measures which number of slots suits a machine, a model and its images."""
