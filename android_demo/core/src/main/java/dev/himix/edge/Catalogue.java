package dev.himix.edge;

import java.net.MalformedURLException;
import java.net.URL;
import java.nio.ByteBuffer;
import java.util.ArrayList;
import java.util.List;

/**
 * A list of bundles on a web server:
 *
 * <pre>
 * {"bundles": [{"name": "small", "address": "small-onnx-int8/", "bytes": 9000000, "manifest_sha256": "..."}]}
 * </pre>
 *
 * An address may be relative to the list's own. The digest of the manifest, which has those of all other files, makes
 * the bundle the one that the list means, whoever serves it.
 */
public final class Catalogue {
    /** One bundle of the list. */
    public static final class Entry {
        public final String name;
        public final String address; // of the bundle's folder
        public final long bytes;
        public final String manifestSha256;

        Entry(Fields entry, URL list) {
            entry.only("name", "address", "bytes", "manifest_sha256");
            name = entry.plainName("name");
            bytes = entry.integer("bytes", 1, 1L << 40);
            manifestSha256 = entry.digest("manifest_sha256");
            try {
                address = WebSource.check(new URL(list, entry.string("address")).toString()).toString();
            } catch (MalformedURLException error) {
                throw entry.wrong("address", "an address");
            }
        }
    }

    private static final int MOST_BYTES = 1 << 20;
    private static final int MOST = 1000;

    private Catalogue() {}

    /** Reads a list. Throws InputException if it cannot be had, or is none. */
    public static List<Entry> read(String address, Stop stop) {
        byte[] bytes = WebSource.read(address, MOST_BYTES, stop);
        try {
            Fields fields = Fields.of(Files.parseJson(ByteBuffer.wrap(bytes)), "the list");
            fields.only("bundles");
            List<Entry> entries = new ArrayList<Entry>();
            for (Fields entry : fields.objects("bundles")) {
                if (entries.size() == MOST) {
                    throw new InputException("more than " + MOST + " bundles");
                }
                entries.add(new Entry(entry, WebSource.check(address)));
            }
            return entries;
        } catch (InputException error) {
            throw new InputException(address + ": " + error.getMessage());
        }
    }
}
