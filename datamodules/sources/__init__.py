"""One public dataset a file: licence, address, counts, label coding, and where its images lie."""
