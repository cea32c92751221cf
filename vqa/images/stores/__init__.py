"""Where the image store keeps bytes: in Redis, in a folder, or in a bucket."""
