"""What a run shows, and resumes from: reports, plots and finished stages."""
