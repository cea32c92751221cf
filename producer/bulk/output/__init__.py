"""Result files OUT and ERR: written durably, compressed by name, resumable."""
