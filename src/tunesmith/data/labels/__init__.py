"""Human labels: rows out to Label Studio or Prodigy, and judgements back in as rows."""
