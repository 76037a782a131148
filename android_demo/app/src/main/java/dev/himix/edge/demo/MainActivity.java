package dev.himix.edge.demo;

import android.Manifest;
import android.app.Activity;
import android.app.AlertDialog;
import android.content.ActivityNotFoundException;
import android.content.DialogInterface;
import android.content.Intent;
import android.content.pm.PackageManager;
import android.content.res.ColorStateList;
import android.os.Build;
import android.os.Bundle;
import android.provider.MediaStore;
import android.view.KeyEvent;
import android.view.Menu;
import android.view.MenuItem;
import android.view.View;
import android.view.inputmethod.EditorInfo;
import android.widget.Button;
import android.widget.EditText;
import android.widget.ImageView;
import android.widget.TextView;
import android.widget.Toast;
import dev.himix.edge.Catalogue;
import java.util.List;

/** A picture, a question, an answer that comes token by token, and what it took. */
public final class MainActivity extends Activity implements Demo.Observer {
    private static final int CHOOSE = 1;
    private static final int PHOTOGRAPH = 2;
    private static final int CHOOSE_MODEL = 3;
    private static final String PICK_IMAGES = "android.provider.action.PICK_IMAGES"; // the photo picker of Android 13

    private Demo demo;
    private ImageView picture;
    private EditText question;
    private Button ask;
    private TextView said;
    private TextView answer;
    private TextView timings;
    private TextView status;
    private ColorStateList answerColors;
    private boolean answering;
    private int nextSample;

    @Override
    protected void onCreate(Bundle saved) {
        super.onCreate(saved);
        setContentView(R.layout.main);
        Edges.pad(findViewById(R.id.root));
        demo = Demo.of(this);
        picture = (ImageView) findViewById(R.id.picture);
        question = (EditText) findViewById(R.id.question);
        ask = (Button) findViewById(R.id.ask);
        said = (TextView) findViewById(R.id.said);
        answer = (TextView) findViewById(R.id.answer);
        answerColors = answer.getTextColors();
        timings = (TextView) findViewById(R.id.timings);
        status = (TextView) findViewById(R.id.status);
        nextSample = saved == null ? 0 : saved.getInt("next_sample");
        findViewById(R.id.choose).setOnClickListener(new View.OnClickListener() {
            @Override
            public void onClick(View view) {
                choose();
            }
        });
        findViewById(R.id.photograph).setOnClickListener(new View.OnClickListener() {
            @Override
            public void onClick(View view) {
                photograph();
            }
        });
        findViewById(R.id.sample).setOnClickListener(new View.OnClickListener() {
            @Override
            public void onClick(View view) {
                sample();
            }
        });
        ask.setOnClickListener(new View.OnClickListener() {
            @Override
            public void onClick(View view) {
                askOrStop();
            }
        });
        question.setOnEditorActionListener(new TextView.OnEditorActionListener() {
            @Override
            public boolean onEditorAction(TextView view, int action, KeyEvent event) {
                if (action == EditorInfo.IME_ACTION_SEND && !demo.busy) {
                    askOrStop();
                }
                return true;
            }
        });
        demo.restore(saved);
        if (saved != null) {
            question.setText(saved.getString("question"));
        }
        if (demo.bundle == null && !demo.busy) {
            demo.open(null);
        }
    }

    @Override
    protected void onStart() {
        super.onStart();
        demo.add(this);
    }

    @Override
    protected void onStop() {
        demo.remove(this);
        super.onStop();
    }

    @Override
    protected void onSaveInstanceState(Bundle state) {
        super.onSaveInstanceState(state);
        state.putInt("next_sample", nextSample);
        state.putString("question", question.getText().toString());
        demo.save(state);
    }

    @Override
    public void changed() {
        picture.setImageBitmap(demo.preview);
        ask.setText(demo.busy ? R.string.stop : R.string.ask);
        boolean failed = !demo.error.isEmpty();
        if (failed) {
            answer.setText(demo.error);
        } else if (demo.preview == null && demo.answer.isEmpty() && demo.said.isEmpty()) {
            answer.setText(R.string.no_picture);
        } else {
            answer.setText(demo.answer);
        }
        said.setText(demo.said);
        said.setVisibility(demo.said.isEmpty() ? View.GONE : View.VISIBLE);
        answer.setTextColor(failed ? ColorStateList.valueOf(getColor(R.color.failed)) : answerColors);
        if (answering && !demo.busy) { // as a whole: word by word it would be read from the beginning each time
            answer.announceForAccessibility(answer.getText());
        }
        answering = demo.busy;
        timings.setText(demo.stats == null ? "" : Timings.table(demo.stats, demo.imageStats));
        status.setText(demo.status);
    }

    private void askOrStop() {
        if (demo.busy) {
            demo.stop();
        } else {
            demo.ask(question.getText().toString());
        }
    }

    private void choose() {
        Intent documents = new Intent(Intent.ACTION_GET_CONTENT).addCategory(Intent.CATEGORY_OPENABLE).setType("image/*");
        boolean hasPicker = Build.VERSION.SDK_INT >= 33;
        try {
            startActivityForResult(hasPicker ? new Intent(PICK_IMAGES).setType("image/*") : documents, CHOOSE);
        } catch (ActivityNotFoundException missing) {
            try {
                startActivityForResult(documents, CHOOSE);
            } catch (ActivityNotFoundException none) {
                Toast.makeText(this, R.string.no_picker, Toast.LENGTH_LONG).show();
            }
        }
    }

    private void photograph() {
        Intent camera = new Intent(MediaStore.ACTION_IMAGE_CAPTURE).putExtra(MediaStore.EXTRA_OUTPUT, PhotoProvider.PHOTO);
        camera.addFlags(Intent.FLAG_GRANT_WRITE_URI_PERMISSION | Intent.FLAG_GRANT_READ_URI_PERMISSION);
        PhotoProvider.file(this).delete();
        try {
            startActivityForResult(camera, PHOTOGRAPH);
        } catch (ActivityNotFoundException missing) {
            Toast.makeText(this, R.string.no_camera, Toast.LENGTH_LONG).show();
        }
    }

    private void sample() {
        if (!demo.busy) {
            List<String> images = Bundles.sampleImages(this);
            demo.take(Bundles.sampleFile(this, images.get(nextSample++ % images.size())));
        }
    }

    @Override
    protected void onActivityResult(int request, int result, Intent data) {
        super.onActivityResult(request, result, data);
        if (result != RESULT_OK) {
            return;
        }
        if (request == CHOOSE && data != null && data.getData() != null) {
            demo.take(data.getData());
        } else if (request == CHOOSE_MODEL && data != null && data.getData() != null) {
            demo.installFile(data.getData());
        } else if (request == PHOTOGRAPH) {
            demo.take(PhotoProvider.PHOTO);
        }
    }

    @Override
    public boolean onCreateOptionsMenu(Menu menu) {
        getMenuInflater().inflate(R.menu.main, menu);
        return true;
    }

    @Override
    public boolean onPrepareOptionsMenu(Menu menu) {
        menu.findItem(R.id.chat).setChecked(demo.chatting);
        menu.findItem(R.id.model_address).setVisible(mayFetch());
        menu.findItem(R.id.new_chat).setEnabled(demo.chatting && !demo.busy);
        return true;
    }

    @Override
    public boolean onOptionsItemSelected(MenuItem item) {
        int id = item.getItemId();
        if (id == R.id.model) {
            chooseModel();
        } else if (id == R.id.model_file) {
            startActivityForResult(
                    new Intent(Intent.ACTION_OPEN_DOCUMENT).addCategory(Intent.CATEGORY_OPENABLE).setType("application/zip"),
                    CHOOSE_MODEL);
        } else if (id == R.id.model_address) {
            askForAddress();
        } else if (id == R.id.chat) {
            demo.setChatting(!demo.chatting);
        } else if (id == R.id.new_chat) {
            demo.newChat();
        } else if (id == R.id.self_test) {
            startActivity(new Intent(this, SelfTestActivity.class));
        } else if (id == R.id.benchmark) {
            startActivity(new Intent(this, BenchActivity.class).putExtra("bundle", demo.bundle));
        } else {
            return super.onOptionsItemSelected(item);
        }
        return true;
    }

    private void chooseModel() {
        final List<String> names = Bundles.names(this);
        new AlertDialog.Builder(this)
                .setTitle(R.string.model)
                .setSingleChoiceItems(
                        names.toArray(new String[0]), names.indexOf(demo.bundle),
                        new DialogInterface.OnClickListener() {
                            @Override
                            public void onClick(DialogInterface dialog, int which) {
                                dialog.dismiss();
                                demo.open(names.get(which));
                            }
                        })
                .show();
    }

    /** Only the app's online kind has the permission; it is granted at its installation. */
    private boolean mayFetch() {
        return checkSelfPermission(Manifest.permission.INTERNET) == PackageManager.PERMISSION_GRANTED;
    }

    private void askForAddress() {
        final EditText address = new EditText(this);
        address.setHint(R.string.address_hint);
        new AlertDialog.Builder(this)
                .setTitle(R.string.model_address)
                .setView(address)
                .setPositiveButton(
                        R.string.fetch,
                        new DialogInterface.OnClickListener() {
                            @Override
                            public void onClick(DialogInterface dialog, int which) {
                                fetch(address.getText().toString().trim());
                            }
                        })
                .show();
    }

    /** A list of models if it ends with .json, else a model's folder. */
    private void fetch(String address) {
        if (!address.endsWith(".json")) {
            demo.installAddress(address, "");
            return;
        }
        demo.list(address, new Demo.Listed() {
            @Override
            public void listed(List<Catalogue.Entry> entries) {
                if (!isFinishing()) {
                    chooseOf(entries);
                }
            }
        });
    }

    private void chooseOf(final List<Catalogue.Entry> entries) {
        String[] shown = new String[entries.size()];
        for (int i = 0; i < shown.length; i++) {
            shown[i] = getString(R.string.listed_model, entries.get(i).name, entries.get(i).bytes / 1e6);
        }
        new AlertDialog.Builder(this)
                .setTitle(R.string.model)
                .setSingleChoiceItems(
                        shown, -1,
                        new DialogInterface.OnClickListener() {
                            @Override
                            public void onClick(DialogInterface dialog, int which) {
                                dialog.dismiss();
                                demo.installAddress(entries.get(which).address, entries.get(which).manifestSha256);
                            }
                        })
                .show();
    }
}
