package dev.himix.edge;

import java.io.EOFException;
import java.io.File;
import java.io.IOException;
import java.io.RandomAccessFile;

/**
 * What a picture file says of itself, read before a decoder allocates anything: the sizes that are refused, and the
 * kinds that Android decodes to other pixels than himix-edge's Python does.
 */
public final class PictureFile {
    public static final long MOST_PIXELS = 100_000_000;
    public static final int LONGEST_SIDE = 65_535;
    private static final int PNG = 0x89504E47;
    private static final int GIF = 0x47494638;
    private static final int RIFF = 0x52494646;

    private PictureFile() {}

    /** Throws InputException for a picture that is too large, cut off, or of a kind that would look different. */
    public static void check(File file) {
        try (RandomAccessFile in = new RandomAccessFile(file, "r")) {
            int first = in.length() < 12 ? 0 : in.readInt();
            if (first == PNG) {
                png(in);
            } else if (first >>> 8 == 0xFFD8FF) {
                jpeg(in);
            } else if (first == GIF) {
                in.seek(6);
                checkSize(Short.reverseBytes(in.readShort()) & 0xFFFF, Short.reverseBytes(in.readShort()) & 0xFFFF);
            } else if (first == RIFF && (Integer.reverseBytes(in.readInt()) & 0xFFFFFFFFL) + 8 > in.length()) {
                throw cutOff();
            }
        } catch (EOFException error) {
            throw cutOff();
        } catch (IOException error) {
            throw new InputException("the picture cannot be read (" + error.getMessage() + ")");
        }
    }

    /** Throws InputException for no pixels, over 100 megapixels or a side over 65,535. */
    public static void checkSize(long width, long height) {
        if (width < 1 || height < 1) {
            throw new InputException("this picture has no pixels");
        }
        if (Math.max(width, height) > LONGEST_SIDE || width * height > MOST_PIXELS) {
            throw new InputException(
                    width + " x " + height + " pixels; pictures over " + MOST_PIXELS / 1_000_000
                            + " megapixels or with a side over " + LONGEST_SIDE + " are refused, scale it down first");
        }
    }

    private static void png(RandomAccessFile in) throws IOException {
        in.seek(16);
        checkSize(in.readInt() & 0xFFFFFFFFL, in.readInt() & 0xFFFFFFFFL);
        if (in.readUnsignedByte() == 16) {
            throw new InputException("this PNG has 16 bits a channel, which Android rounds; save it with 8");
        }
        in.seek(8);
        for (int name = 0; name != 0x49454E44; ) { // IEND
            long length = in.readInt() & 0xFFFFFFFFL;
            name = in.readInt();
            long next = in.getFilePointer() + length + 4;
            if (next > in.length()) {
                throw cutOff();
            }
            in.seek(next);
        }
    }

    private static void jpeg(RandomAccessFile in) throws IOException {
        in.seek(2);
        while (true) {
            int marker = in.readUnsignedShort();
            while (marker == 0xFFFF) { // filling
                marker = 0xFF00 | in.readUnsignedByte();
            }
            if (marker >>> 8 != 0xFF) {
                throw new InputException("this picture is damaged");
            }
            int kind = marker & 255;
            long at = in.getFilePointer();
            int length = in.readUnsignedShort();
            boolean frame = kind >= 0xC0 && kind <= 0xCF && kind != 0xC4 && kind != 0xC8 && kind != 0xCC;
            if (frame) {
                in.readUnsignedByte(); // bits
                int height = in.readUnsignedShort();
                checkSize(in.readUnsignedShort(), height);
                if (in.readUnsignedByte() == 4) {
                    throw new InputException(
                            "this JPEG is CMYK, which devices show in different colors; save it as RGB");
                }
            }
            in.seek(at + Math.max(length, 2));
            if (kind == 0xDA) {
                findEnd(in);
                return;
            }
        }
    }

    /** Behind the first scan an end marker can only be one: 0xFF in the data is followed by 0. */
    private static void findEnd(RandomAccessFile in) throws IOException {
        byte[] buffer = new byte[1 << 16];
        boolean behind = false;
        for (int count = in.read(buffer); count >= 0; count = in.read(buffer)) {
            for (int i = 0; i < count; i++) {
                if (behind && (buffer[i] & 255) == 0xD9) {
                    return;
                }
                behind = (buffer[i] & 255) == 0xFF;
            }
        }
        throw cutOff();
    }

    private static InputException cutOff() {
        return new InputException("this picture is damaged: it is cut off");
    }
}
