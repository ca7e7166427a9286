"""What the experiments' programs and reports share: options, runs, results, tables, figures."""
