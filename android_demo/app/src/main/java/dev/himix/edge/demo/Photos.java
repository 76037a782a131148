package dev.himix.edge.demo;

import android.graphics.Bitmap;
import android.graphics.BitmapFactory;
import android.graphics.Matrix;
import android.media.ExifInterface;
import dev.himix.edge.InputException;
import dev.himix.edge.PictureFile;
import dev.himix.edge.Session;
import dev.himix.edge.Upright;
import java.io.File;
import java.io.IOException;

/** Picture files: decoded for the model, and small for the screen. */
final class Photos {
    private static final long MAX_DECODED = 24_000_000; // 96 MB; larger ones are halved while they are decoded

    private Photos() {}

    /** A file that is decoded when a session needs it. */
    static Session.Photo of(final File file) {
        return new Session.Photo() {
            @Override
            public Upright decode() {
                BitmapFactory.Options options = measure(file);
                int reduction = reductionTo(options, MAX_DECODED);
                options = new BitmapFactory.Options();
                options.inSampleSize = reduction;
                options.inScaled = false;
                options.inPremultiplied = false; // exact colours behind transparency
                return new Upright(new BitmapSource(decodeFile(file, options)), orientation(file));
            }
        };
    }

    /** The picture for the screen, upright, at most about {@code side} pixels wide or high. */
    static Bitmap preview(File file, int side) {
        BitmapFactory.Options options = measure(file);
        int reduction = reductionTo(options, (long) side * side);
        options = new BitmapFactory.Options();
        options.inSampleSize = reduction;
        Bitmap bitmap = decodeFile(file, options);
        Matrix matrix = turn(orientation(file));
        return matrix.isIdentity()
                ? bitmap
                : Bitmap.createBitmap(bitmap, 0, 0, bitmap.getWidth(), bitmap.getHeight(), matrix, true);
    }

    private static BitmapFactory.Options measure(File file) {
        PictureFile.check(file);
        BitmapFactory.Options options = new BitmapFactory.Options();
        options.inJustDecodeBounds = true;
        BitmapFactory.decodeFile(file.getPath(), options);
        if (options.outWidth <= 0 || options.outHeight <= 0) {
            throw new InputException("this file is not a picture that Android can read");
        }
        PictureFile.checkSize(options.outWidth, options.outHeight);
        return options;
    }

    private static int reductionTo(BitmapFactory.Options measured, long pixels) {
        int reduction = 1;
        while ((long) measured.outWidth * measured.outHeight / reduction / reduction > pixels) {
            reduction *= 2;
        }
        return reduction;
    }

    private static Bitmap decodeFile(File file, BitmapFactory.Options options) {
        try {
            Bitmap bitmap = BitmapFactory.decodeFile(file.getPath(), options);
            if (bitmap == null) {
                throw new InputException("this picture is damaged");
            }
            return bitmap;
        } catch (OutOfMemoryError error) {
            throw new InputException("not enough memory for this picture; scale it down first");
        }
    }

    private static int orientation(File file) {
        try {
            return new ExifInterface(file.getPath())
                    .getAttributeInt(ExifInterface.TAG_ORIENTATION, ExifInterface.ORIENTATION_NORMAL);
        } catch (IOException | RuntimeException error) { // older Androids throw anything for odd EXIF
            return ExifInterface.ORIENTATION_NORMAL;
        }
    }

    private static Matrix turn(int orientation) {
        Matrix matrix = new Matrix();
        if (orientation == ExifInterface.ORIENTATION_FLIP_HORIZONTAL) {
            matrix.setScale(-1, 1);
        } else if (orientation == ExifInterface.ORIENTATION_ROTATE_180) {
            matrix.setRotate(180);
        } else if (orientation == ExifInterface.ORIENTATION_FLIP_VERTICAL) {
            matrix.setScale(1, -1);
        } else if (orientation == ExifInterface.ORIENTATION_TRANSPOSE) {
            matrix.setRotate(90);
            matrix.postScale(-1, 1);
        } else if (orientation == ExifInterface.ORIENTATION_ROTATE_90) {
            matrix.setRotate(90);
        } else if (orientation == ExifInterface.ORIENTATION_TRANSVERSE) {
            matrix.setRotate(-90);
            matrix.postScale(-1, 1);
        } else if (orientation == ExifInterface.ORIENTATION_ROTATE_270) {
            matrix.setRotate(-90);
        }
        return matrix;
    }
}
