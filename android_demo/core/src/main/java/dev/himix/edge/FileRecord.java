package dev.himix.edge;

import java.io.File;
import java.io.IOException;
import java.nio.charset.StandardCharsets;

/** A file of a bundle: its path relative to the folder, its size and its digest. */
final class FileRecord {
    private static final long MOST_BYTES = 1L << 40;
    private static final int LONGEST_PATH = 512;
    private static final int LONGEST_NAME = 255;

    final String path;
    final long bytes;
    final String sha256;

    /** Throws InputException for a path that could lead elsewhere. */
    FileRecord(Fields record, String where) {
        record.only("path", "bytes", "sha256");
        path = record.string("path");
        bytes = record.integer("bytes", 0, MOST_BYTES);
        sha256 = record.digest("sha256");
        checkPath(path, where);
    }

    boolean equalTo(FileRecord other) {
        return path.equals(other.path) && bytes == other.bytes && sha256.equals(other.sha256);
    }

    /** Throws InputException unless this is a plain path below the folder, spelled in the one way there is. */
    static void checkPath(String path, String where) {
        boolean odd = path.isEmpty() || path.length() > LONGEST_PATH;
        for (int i = 0; i < path.length(); i++) {
            char c = path.charAt(i);
            odd |= c == '\\' || c == ':' || Character.isISOControl(c) || Character.getType(c) == Character.FORMAT;
        }
        for (String part : path.split("/", -1)) {
            boolean tooLong = part.getBytes(StandardCharsets.UTF_8).length > LONGEST_NAME;
            odd |= part.isEmpty() || part.equals(".") || part.equals("..") || tooLong;
        }
        if (odd) {
            String shown = path.length() > 80 ? path.substring(0, 80) + "..." : path;
            throw new InputException(where + ": path \"" + shown + "\" leaves the bundle; refused");
        }
    }

    /** Checks that the file is as described: a plain file of this size and content. Throws InputException. */
    void verify(File folder, Stop stop) {
        File file = new File(folder, path);
        if (isLink(folder)) {
            throw new InputException(file + ": a link that leaves the bundle; refused");
        }
        if (!file.exists()) {
            throw new InputException(file + ": missing; the bundle is incomplete, copy it again");
        }
        if (!file.isFile()) {
            throw new InputException(file + ": not a regular file; refused");
        }
        if (file.length() != bytes) {
            throw new InputException(
                    file + ": " + file.length() + " bytes, the manifest says " + bytes + "; copy the bundle again");
        }
        if (!Files.sha256(file, stop).equals(sha256)) {
            throw new InputException(
                    file + ": content does not match its SHA-256 in the manifest; copy the bundle again");
        }
    }

    private boolean isLink(File folder) {
        try {
            File plain = new File(folder.getCanonicalFile(), path);
            return !plain.getCanonicalPath().equals(plain.getPath());
        } catch (IOException error) {
            return true; // a link to itself
        }
    }
}
