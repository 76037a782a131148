package android.content.res;

import android.os.Standin;
import java.io.File;
import java.io.FileInputStream;
import java.io.IOException;
import java.io.InputStream;

/** The assets that the APK was made of. */
public final class AssetManager {
    public String[] list(String path) {
        String[] names = new File(Standin.ASSETS, path).list();
        return names == null ? new String[0] : names;
    }

    public InputStream open(String path) throws IOException {
        return new FileInputStream(new File(Standin.ASSETS, path));
    }
}
