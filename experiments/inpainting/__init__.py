"""Parts of the job `inpaint`: what is painted where, what is written, and copies of real regions."""
