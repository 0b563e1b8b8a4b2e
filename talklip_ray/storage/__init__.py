"""Where bytes come from and go to: files and object storage, and what "done" means there."""
