package dev.himix.edge;

import java.io.File;
import java.io.FileNotFoundException;
import java.io.IOException;
import java.util.Enumeration;
import java.util.zip.ZipEntry;
import java.util.zip.ZipFile;

/** A bundle in a zip file, at its top or in its one folder. Only what the manifest names is ever read from it. */
public final class ArchiveSource implements Source {
    private static final int MOST_ENTRIES = 20_000;

    private final ZipFile archive;
    private final String folder; // "" or ends with /

    /** Throws InputException for a file that is no zip, or has no manifest.json where it should. */
    public ArchiveSource(File file) {
        try {
            archive = new ZipFile(file);
        } catch (IOException error) {
            throw new InputException("this file is no zip file with a bundle in it");
        }
        String found = null;
        int count = 0;
        Enumeration<? extends ZipEntry> entries = archive.entries();
        while (entries.hasMoreElements() && ++count <= MOST_ENTRIES) {
            String name = entries.nextElement().getName();
            boolean top = name.equals(Bundle.MANIFEST) || name.matches("[^/]+/" + Bundle.MANIFEST);
            if (top && (found == null || name.length() < found.length())) {
                found = name;
            }
        }
        if (found == null) {
            close();
            throw new InputException("there is no " + Bundle.MANIFEST + " in this zip file; is it a bundle?");
        }
        folder = found.substring(0, found.length() - Bundle.MANIFEST.length());
    }

    @Override
    public Part open(String path, long from) throws IOException {
        ZipEntry entry = archive.getEntry(folder + path);
        if (entry == null) {
            throw new FileNotFoundException("it is not in the zip file");
        }
        return new Part(archive.getInputStream(entry), 0);
    }

    @Override
    public void close() {
        try {
            archive.close();
        } catch (IOException error) {
            throw new InputException("the zip file cannot be closed (" + error.getMessage() + ")");
        }
    }
}
