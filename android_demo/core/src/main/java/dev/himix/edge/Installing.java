package dev.himix.edge;

import java.io.ByteArrayOutputStream;
import java.io.File;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.util.Collection;

/**
 * Takes a bundle from elsewhere into a folder of bundles. Its manifest is read and checked first; then only the files
 * that it names are fetched, each no longer than it says, and checked by hash. What was fetched before a break is kept,
 * and fetching the same bundle again goes on there. The bundle appears as a whole, when everything is right.
 */
public final class Installing {
    /** Told how far it is. */
    public interface Progress {
        void fetched(long bytes, long of);
    }

    private static final String PART = ".part";
    private static final long SPARE = 64 << 20; // bytes of the disk that stay free
    private static final int PIECE = 1 << 16;

    private final Source source;
    private final File folder;
    private final long limit;
    private final Stop stop;
    private final Progress progress;
    private long fetched;
    private long total;

    /**
     * @param folder where bundles are.
     * @param limit the largest bundle that is taken, bytes.
     */
    public Installing(Source source, File folder, long limit, Stop stop, Progress progress) {
        this.source = source;
        this.folder = folder;
        this.limit = limit;
        this.stop = stop;
        this.progress = progress;
    }

    /**
     * Fetches and checks the bundle.
     *
     * @param manifestSha256 what its manifest has to be; "": any.
     * @return its name, and its folder's.
     * @throws InputException no bundle or a damaged one, too large, no room, a broken connection.
     */
    public String run(String manifestSha256) {
        byte[] manifest = manifest();
        String digest = Files.sha256(manifest);
        if (!manifestSha256.isEmpty() && !digest.equals(manifestSha256)) {
            throw new InputException("this bundle is not the one that was promised: its manifest has another SHA-256");
        }
        File staged = new File(folder, "." + digest.substring(0, 16) + PART);
        forgetOthers(staged);
        if (!staged.isDirectory() && !staged.mkdirs()) {
            throw new InputException(staged + ": cannot be made; is the device full?");
        }
        Files.write(new File(staged, Bundle.MANIFEST), manifest);
        Bundle bundle = Bundle.read(staged);
        Collection<FileRecord> records = bundle.records();
        total = bundle.bytes();
        if (total > limit) {
            throw new InputException(
                    bundle.name + " has " + (total >> 20) + " MiB; more than " + (limit >> 20) + " MiB are not taken");
        }
        for (FileRecord record : records) {
            fetched += have(staged, record);
        }
        if (total - fetched > folder.getUsableSpace() - SPARE) {
            throw new InputException(
                    bundle.name + " needs " + (total - fetched >> 20) + " MiB more, and the device has no room for it");
        }
        fetched = 0;
        for (FileRecord record : records) {
            fetch(staged, record);
        }
        Bundle.open(staged, stop);
        publish(staged, new File(folder, bundle.name));
        return bundle.name;
    }

    private byte[] manifest() {
        try (InputStream in = source.open(Bundle.MANIFEST, 0).content) {
            return all(in, (int) Bundle.MAX_MANIFEST_BYTES, Bundle.MANIFEST, stop);
        } catch (IOException error) {
            throw new InputException(Bundle.MANIFEST + ": " + WebSource.reason(error));
        }
    }

    /** All of a stream. Throws InputException for over {@code limit} bytes. */
    static byte[] all(InputStream in, int limit, String what, Stop stop) throws IOException {
        ByteArrayOutputStream out = new ByteArrayOutputStream();
        byte[] piece = new byte[PIECE];
        for (int count = in.read(piece); count >= 0; count = in.read(piece)) {
            stop.check();
            out.write(piece, 0, count);
            if (out.size() > limit) {
                throw new InputException(what + ": larger than " + (limit >> 20) + " MiB; refused");
            }
        }
        return out.toByteArray();
    }

    /** Bytes of a file that are there from an earlier try. */
    private static long have(File staged, FileRecord record) {
        File whole = new File(staged, record.path);
        File part = new File(staged, record.path + PART);
        return Math.min(whole.isFile() ? whole.length() : part.length(), record.bytes);
    }

    private void fetch(File staged, FileRecord record) {
        File whole = new File(staged, record.path);
        File part = new File(staged, record.path + PART);
        File parent = whole.getParentFile();
        if (!parent.isDirectory() && !parent.mkdirs()) {
            throw new InputException(parent + ": cannot be made; is the device full?");
        }
        if (!whole.isFile()) {
            try {
                append(record, part);
            } catch (IOException error) {
                throw new InputException(
                        record.path + ": " + WebSource.reason(error) + "; what has come is kept, ask for it again");
            }
            if (part.length() != record.bytes) {
                throw new InputException(
                        record.path + ": ended after " + part.length() + " of " + record.bytes
                                + " bytes; what has come is kept, ask for it again");
            }
            if (!Files.sha256(part, stop).equals(record.sha256)) {
                part.delete();
                throw new InputException(record.path + ": content does not match its SHA-256 in the manifest; refused");
            }
            if (!part.renameTo(whole)) {
                throw new InputException(whole + ": cannot be written");
            }
        }
        fetched += record.bytes;
        progress.fetched(fetched, total);
    }

    private void append(FileRecord record, File to) throws IOException {
        long from = to.length() > record.bytes ? 0 : to.length();
        if (from == record.bytes && to.isFile()) {
            return;
        }
        Source.Part part = source.open(record.path, from);
        try (InputStream in = part.content;
                FileOutputStream out = new FileOutputStream(to, part.from == from)) {
            long written = part.from == from ? from : 0;
            if (part.from != 0 && part.from != from) {
                throw new IOException("the server sends another part than was asked for");
            }
            byte[] piece = new byte[PIECE];
            for (int count = in.read(piece); count >= 0; count = in.read(piece)) {
                stop.check();
                if (written + count > record.bytes) {
                    throw new InputException(
                            record.path + ": longer than the " + record.bytes + " bytes of the manifest; refused");
                }
                out.write(piece, 0, count);
                written += count;
                progress.fetched(fetched + written, total);
            }
            out.getFD().sync();
        }
    }

    private void forgetOthers(File staged) {
        File[] all = folder.listFiles();
        for (File other : all == null ? new File[0] : all) {
            if (other.getName().startsWith(".") && other.getName().endsWith(PART) && !other.equals(staged)) {
                Files.deleteTree(other);
            }
        }
    }

    private void publish(File staged, File to) {
        File old = new File(folder, ".old" + PART);
        Files.deleteTree(old);
        boolean there = to.exists();
        if (there && !to.renameTo(old) || !staged.renameTo(to)) {
            if (there && !to.exists()) {
                old.renameTo(to);
            }
            throw new InputException(to + ": cannot be written");
        }
        Files.deleteTree(old);
    }
}
