package android.content;

import android.content.res.AssetManager;
import android.content.res.Resources;
import android.os.Standin;
import java.io.File;

public class Context {
    public Context getApplicationContext() {
        return this;
    }

    public File getFilesDir() {
        return Standin.folder("files");
    }

    public File getCacheDir() {
        return Standin.folder("cache");
    }

    public File getExternalFilesDir(String type) {
        return Standin.folder("external");
    }

    /** 0 is granted; the app asks for INTERNET alone. */
    public int checkSelfPermission(String permission) {
        return permission.equals("android.permission.INTERNET") && Standin.online ? 0 : -1;
    }

    public File[] getExternalMediaDirs() {
        return new File[] {Standin.folder("media")};
    }

    public AssetManager getAssets() {
        return new AssetManager();
    }

    public Resources getResources() {
        return new Resources();
    }

    public ContentResolver getContentResolver() {
        return new ContentResolver();
    }

    public String getString(int id) {
        return Standin.string(id);
    }

    public String getString(int id, Object... values) {
        return String.format(Standin.string(id), values);
    }

    public int getColor(int id) {
        return id;
    }

    public Object getSystemService(String name) {
        switch (name) {
            case "activity":
                return new android.app.ActivityManager();
            case "batterymanager":
                return new android.os.BatteryManager();
            default:
                return new android.os.PowerManager();
        }
    }

    /** The battery's state. */
    public Intent registerReceiver(BroadcastReceiver receiver, IntentFilter filter) {
        return new Intent().putExtra("level", 81).putExtra("scale", 100).putExtra("temperature", 273).putExtra("voltage", 4000);
    }
}
