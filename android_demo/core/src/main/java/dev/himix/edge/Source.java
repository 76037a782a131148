package dev.himix.edge;

import java.io.Closeable;
import java.io.IOException;
import java.io.InputStream;

/** Where a bundle's files come from. What it gives is trusted in nothing: {@link Installing} checks it. */
public interface Source extends Closeable {
    /** A file from some byte on. */
    final class Part {
        final InputStream content;
        final long from;

        Part(InputStream content, long from) {
            this.content = content;
            this.from = from;
        }
    }

    /**
     * A file of the bundle.
     *
     * @param path as in the manifest.
     * @param from the byte that it should begin with; the answer may begin earlier.
     * @throws IOException it is not there, or the connection broke.
     */
    Part open(String path, long from) throws IOException;
}
