package dev.himix.edge;

import java.io.ByteArrayOutputStream;
import java.io.DataInputStream;
import java.io.File;
import java.io.FileInputStream;
import java.io.FileNotFoundException;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.nio.ByteBuffer;
import java.nio.charset.CharacterCodingException;
import java.nio.charset.CodingErrorAction;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;

/** Reading with a limit, writing atomically, hashing. (java.nio.file is missing before Android 8.) */
public final class Files {
    private Files() {}

    /** What a file that is written consists of. */
    interface Content {
        void writeTo(OutputStream out) throws IOException;
    }

    /** A file's bytes. Throws InputException if it is missing, cannot be read or is larger than {@code limit}. */
    public static byte[] read(File file, long limit) {
        checkPlain(file, limit);
        try (DataInputStream in = new DataInputStream(new FileInputStream(file))) {
            byte[] bytes = new byte[(int) file.length()];
            in.readFully(bytes);
            return bytes.length > 0 ? bytes : rest(in, limit, file);
        } catch (FileNotFoundException error) {
            throw new InputException(file + ": no such file");
        } catch (IOException error) {
            throw new InputException(file + ": cannot be read (" + error.getMessage() + ")");
        }
    }

    /** Throws InputException for a pipe, whose end might never come, and for a file larger than {@code limit}. */
    static void checkPlain(File file, long limit) {
        if (file.exists() && !file.isFile()) {
            throw new InputException(file + ": not a regular file; refused");
        }
        if (file.length() > limit) {
            throw new InputException(file + ": larger than " + (limit >> 20) + " MiB; refused");
        }
    }

    /** The system's own files (/proc) say that they are empty. */
    private static byte[] rest(InputStream in, long limit, File file) throws IOException {
        ByteArrayOutputStream out = new ByteArrayOutputStream();
        byte[] buffer = new byte[1 << 12];
        for (int count = in.read(buffer); count >= 0; count = in.read(buffer)) {
            out.write(buffer, 0, count);
            if (out.size() > limit) {
                throw new InputException(file + ": larger than " + (limit >> 20) + " MiB; refused");
            }
        }
        return out.toByteArray();
    }

    /** A JSON file of at most {@code limit} bytes, in UTF-8. Throws InputException naming the file. */
    public static Object readJson(File file, long limit) {
        byte[] bytes = read(file, limit);
        try {
            return parseJson(ByteBuffer.wrap(bytes));
        } catch (InputException error) {
            throw new InputException(file + ": " + error.getMessage());
        }
    }

    /** JSON in UTF-8. Throws InputException. */
    static Object parseJson(ByteBuffer bytes) {
        try {
            return Json.parse(
                    StandardCharsets.UTF_8
                            .newDecoder()
                            .onMalformedInput(CodingErrorAction.REPORT)
                            .decode(bytes)
                            .toString());
        } catch (CharacterCodingException error) {
            throw new InputException("not UTF-8");
        }
    }

    /** Replaces a file as a whole: a kill leaves the old one or the new one. Throws InputException. */
    public static void write(File file, final byte[] bytes) {
        write(file, new Content() {
            @Override
            public void writeTo(OutputStream out) throws IOException {
                out.write(bytes);
            }
        });
    }

    /** As above, for what is too large to hold. */
    static void write(File file, Content content) {
        File staged = new File(file.getPath() + ".staging");
        try (FileOutputStream out = new FileOutputStream(staged)) {
            content.writeTo(out);
            out.getFD().sync();
        } catch (IOException error) {
            staged.delete();
            throw new InputException(file + ": cannot be written (" + error.getMessage() + ")");
        }
        if (!staged.renameTo(file)) {
            staged.delete();
            throw new InputException(file + ": cannot be written");
        }
    }

    /** A folder and what is in it; links are removed, and not followed. */
    public static void deleteTree(File file) {
        if (file.delete()) { // a file, a link, an empty folder
            return;
        }
        File[] children = file.listFiles();
        for (File child : children == null ? new File[0] : children) {
            deleteTree(child);
        }
        file.delete();
    }

    public static void copy(InputStream in, OutputStream out) throws IOException {
        copy(in, out, Stop.NEVER);
    }

    /** As above; {@code stop} may end it in the middle. */
    public static void copy(InputStream in, OutputStream out, Stop stop) throws IOException {
        byte[] buffer = new byte[1 << 16];
        for (int count = in.read(buffer); count >= 0; count = in.read(buffer)) {
            stop.check();
            out.write(buffer, 0, count);
        }
    }

    /** SHA-256 of a file in hexadecimal. Throws InputException if it cannot be read. */
    public static String sha256(File file) {
        return sha256(file, Stop.NEVER);
    }

    static String sha256(File file, Stop stop) {
        MessageDigest digest = newSha256();
        byte[] buffer = new byte[1 << 16];
        try (InputStream in = new FileInputStream(file)) {
            for (int count = in.read(buffer); count >= 0; count = in.read(buffer)) {
                stop.check();
                digest.update(buffer, 0, count);
            }
        } catch (IOException error) {
            throw new InputException(file + ": cannot be read (" + error.getMessage() + ")");
        }
        return hex(digest.digest());
    }

    public static String sha256(byte[] bytes) {
        return hex(newSha256().digest(bytes));
    }

    private static MessageDigest newSha256() {
        try {
            return MessageDigest.getInstance("SHA-256");
        } catch (NoSuchAlgorithmException error) {
            throw new AssertionError("every Java has SHA-256", error);
        }
    }

    private static String hex(byte[] bytes) {
        StringBuilder out = new StringBuilder();
        for (byte b : bytes) {
            out.append(Character.forDigit(b >> 4 & 15, 16)).append(Character.forDigit(b & 15, 16));
        }
        return out.toString();
    }
}
