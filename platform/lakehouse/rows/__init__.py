"""Functions of rows that more than one hop needs: checksum, privacy, partition values. No I/O of their own."""
