package android.app;

import android.content.Context;
import android.content.Intent;
import android.os.Bundle;
import android.os.Handler;
import android.os.Looper;
import android.os.Standin;
import android.view.Menu;
import android.view.MenuInflater;
import android.view.MenuItem;
import android.view.View;
import android.view.Window;
import java.util.Map;

/** Inflates its layout from the app's XML, so that ids and types have to be those of the file. */
public class Activity extends Context {
    public static final int RESULT_OK = -1;
    public Intent intent = new Intent();
    public Intent started; // the last intent that it started
    private boolean finished;
    private Map<Integer, View> views;

    protected void onCreate(Bundle saved) {}

    protected void onStart() {}

    protected void onStop() {}

    protected void onDestroy() {}

    protected void onNewIntent(Intent intent) {}

    protected void onSaveInstanceState(Bundle state) {}

    protected void onActivityResult(int request, int result, Intent data) {}

    public boolean onCreateOptionsMenu(Menu menu) {
        return true;
    }

    public boolean onPrepareOptionsMenu(Menu menu) {
        return true;
    }

    public boolean onOptionsItemSelected(MenuItem item) {
        return false;
    }

    public void setContentView(int layout) {
        views = Standin.inflate(layout);
    }

    public View findViewById(int id) {
        return views.get(id);
    }

    public Intent getIntent() {
        return intent;
    }

    public void startActivity(Intent intent) {
        started = intent;
    }

    public void startActivityForResult(Intent intent, int request) {
        started = intent;
    }

    public final void runOnUiThread(Runnable work) {
        new Handler(Looper.getMainLooper()).post(work);
    }

    public Window getWindow() {
        return new Window();
    }

    public MenuInflater getMenuInflater() {
        return new MenuInflater();
    }

    public boolean isFinishing() {
        return finished;
    }

    public void finish() {
        finished = true;
    }
}
